"""Fast, exact CPU code that knows nothing of GRPO: linear layers, memory, the compiler of C kernels."""
