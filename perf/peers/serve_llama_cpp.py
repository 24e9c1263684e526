"""llama.cpp's HTTP server, in the environment that holds xllamacpp: python serve_llama_cpp.py GGUF PORT STREAMS CONTEXT"""

import os
import sys
import time

import xllamacpp

path, port, streams, context_tokens = sys.argv[1], *map(int, sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path = path
params.port = port
params.n_parallel = streams
params.n_ctx = streams * context_tokens
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
params.n_threads_http = 2 * streams + 8  # a thread holds each stream
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(3600)
