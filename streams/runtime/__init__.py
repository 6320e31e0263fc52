"""The runtime: tasks, their chains of operators, and the worker that drives them."""
