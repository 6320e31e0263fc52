"""Codecs: from the bytes of records to columns and back."""
