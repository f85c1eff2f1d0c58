"""The parts of ai.openai: settings, HTTP, the model's API, conversations, tools, the agent made of them."""
