"""The tabs of the Gradio app."""
