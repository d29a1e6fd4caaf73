"""Numbers about answers, each with row statistics that make its bootstrap interval one matrix product."""
