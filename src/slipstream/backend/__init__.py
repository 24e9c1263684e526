"""The Python code that runs inside Triton's Python backend: the models of the repository and the engine behind them."""
