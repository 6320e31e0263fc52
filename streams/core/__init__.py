"""What operators are written against: pure, without I/O, without a vendor's client."""
