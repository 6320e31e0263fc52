"""What `streams run` shows: a live view on a terminal, plain lines or JSON elsewhere; logging and Ctrl-C."""
