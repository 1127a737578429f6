"""The parts of benchmarks.methods: cells, measurements, the report and the picture."""
