package echo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/websocket"
)

// webSocketHandler sends back every message it gets.
func webSocketHandler() http.Handler {
	return websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }}
}

// WebSocket sends one message to a server of the /ws kind and returns what comes back.
func WebSocket(ctx context.Context, address, message string) (string, error) {
	u, err := url.Parse(address)
	if err != nil || !strings.HasPrefix(u.Scheme, "ws") {
		return "", fmt.Errorf("%q is not the address of a WebSocket; write ws://HOST/ws", address)
	}
	cfg, err := websocket.NewConfig(address, "http://"+u.Host)
	if err != nil {
		return "", err
	}
	c, err := cfg.DialContext(ctx)
	if err != nil {
		return "", fmt.Errorf("websocket: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := websocket.Message.Send(c, message); err != nil {
		return "", fmt.Errorf("websocket: %w", err)
	}
	var back string
	if err := websocket.Message.Receive(c, &back); err != nil {
		return "", fmt.Errorf("websocket: %w", err)
	}
	return back, nil
}
