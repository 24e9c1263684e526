"""Strict stand-ins for `trtllm-build`, `mpirun`, `srun`, `tritonserver`, `nvidia-smi`: no GPU is needed.

They are put first on the PATH (`tests/fakes/bin`) and refuse what the real tools of TensorRT-LLM 1.2.1 refuse. Their
rules come from `tests/contract/trtllm-1.2.1/*.json` and from the sources that those files name; they import nothing of
Slipstream, so that what emits a command and what judges it cannot share a mistake.

========================  =======================================================================================
`FAKE_GPUS`               cards of the machine (8)
`FAKE_GPU_SM`             their compute capability x 10 (90)
`FAKE_GPU_NAME`           their name (NVIDIA H100 80GB HBM3)
`FAKE_GPU_MEMORY_MIB`     memory of each (81559)
`FAKE_DRIVER`             driver version (590.44.01)
`FAKE_SMI_FAIL`           `driver`: nvidia-smi cannot reach the driver
`FAKE_TRTLLM_FAIL`        `oom`, `sm`, `killed`, `version` or `disk`: how trtllm-build fails
`FAKE_TRTLLM_SECONDS`     how long one rank's build takes (0)
`FAKE_TRTLLM_VERSION`     version of TensorRT-LLM (1.2.1): the builder's, and the server's
`FAKE_TRITON_FAIL`        `crash`: the server dies after its models are loaded; `mute`: it is ready and gives no token
`FAKE_TOOLS_LOG`          a file that gets one JSON line for each call: tool, argv, rank
========================  =======================================================================================
"""
