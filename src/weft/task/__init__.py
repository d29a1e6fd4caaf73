"""Task families: rows -> examples -> targets -> head -> loss | answers -> metrics. One file a family."""
