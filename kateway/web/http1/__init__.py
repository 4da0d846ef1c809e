"""HTTP/1.1 connections and WebSockets."""
