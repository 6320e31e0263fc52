"""`streams run --workers N`: several worker processes of one program, watched over by this one.

    supervisor.py  starts, restarts and stops them          restarts.py  when, as a pure decision
    child.py       one of them, seen from the supervisor    parent.py    the supervisor, seen from one of them
    metrics.py     their metrics under one port             workers.py   how many, and what they are told

A worker is an ordinary `streams run` with a slot of its own and a socket to the supervisor. Over it go its status, its
metrics and questions about its state; and when the supervisor is gone, however that came, the socket ends and the
worker with it.
"""
