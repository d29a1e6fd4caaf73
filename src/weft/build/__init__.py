"""Recipe to objects: the only room that knows both sides."""
