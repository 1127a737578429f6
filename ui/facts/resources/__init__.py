"""What work costs in time and memory, and where it runs. No Gradio."""
