"""How many tokens a streamed response waits for: a fixed number, or one that follows the load."""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.backend.parameters import ModelConfig
from slipstream.errors import SlipstreamError

# Where the number follows the load: so many responses go out a step, whatever the number of streams. A response costs
# the server and its client about half a millisecond of CPU together, and a step lasts 10 ms or more.
RESPONSES_A_STEP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInterval:
    """`runtime.stream_interval`; the first token of a stream always goes at once."""

    longest: int
    is_adaptive: bool = False  # as long as the load asks for; `longest` otherwise

    @classmethod
    def of(cls, config: ModelConfig) -> StreamInterval:
        """As the model's parameters say."""
        longest = config.whole("slipstream_stream_interval", default=1)
        if longest < 1:
            raise SlipstreamError(
                f"{config.name}/config.pbtxt: slipstream_stream_interval is {longest}, it must be at least 1",
                mend="correct runtime.stream_interval, and render again",
            )
        return cls(longest=longest, is_adaptive=config.flag("slipstream_stream_interval_adapts", default=False))

    def tokens(self, streams: int) -> int:
        """Tokens to wait for where one step brought tokens for so many streams."""
        if not self.is_adaptive:
            return self.longest
        return max(1, min(self.longest, -(-streams // RESPONSES_A_STEP)))
