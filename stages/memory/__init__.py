"""The memory agent: reads a document of any length chunk by chunk."""
