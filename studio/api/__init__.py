"""The programmatic surfaces: REST and Gradio's named endpoints. They translate and never decide."""
