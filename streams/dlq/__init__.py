"""Dead letters after the fact: found, shown, run again under a debugger, and replayed."""
