"""OpenAI's requests and answers, typed."""
