"""The parts of io.webchat: settings, sessions, the WebSocket, the pages."""
