"""A worker's HTTP server: metrics, health, and a page that shows what the worker does.

`serve` starts it in a thread of its own. It only reads: nothing that can be asked for changes anything, and the worker
never waits for it (streams/runtime/report.py). What is asked about state the worker's loop reads, a little each turn
(streams/runtime/queries.py).

    server.py    a worker's endpoints               health.py    alive? ready? as pure decisions
    holders.py   who holds which task, from the log  status.py    the JSON documents
    layout.py    places the nodes of a topology      drawing.py   the topology and the commits as SVG
    page.py      the page, on page.html              figures.py   numbers with their units
    listener.py  thread and addresses of a server    state.py     committed state: one worker's answers
    state_many.py  several workers' as one           state_requests.py  a thread for each question
    many_server.py a supervisor's endpoints
"""
