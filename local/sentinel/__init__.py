"""A stand-in for the Sentinel workspace and its data collection rule, on loopback: takes rows, stores them as Parquet, answers KQL.

Everything that it knows about a table comes from `sentinel.tables`; what it refuses, it refuses with the service's own status and shape.
"""
