"""Rows: the queue and the library. Every change of a job's status happens here."""
