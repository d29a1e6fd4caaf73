"""What is minimised: leaf losses that are sums with their weight, and objectives that ask for forward passes."""
