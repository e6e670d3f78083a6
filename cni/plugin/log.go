package plugin

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Log collects what a call has to say: its standard output and error belong to the runtime.
type Log struct {
	buf   bytes.Buffer
	level slog.LevelVar
}

// Logger writes JSON lines into the log.
func (l *Log) Logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(&l.buf, &slog.HandlerOptions{Level: &l.level}))
}

// SetLevel follows plugin_log_level; what is not a level is ignored.
func (l *Log) SetLevel(text string) { _ = l.level.UnmarshalText([]byte(text)) }

// LogFile is the plugin's log, in the agent's run folder. istio/istio cni/pkg/plugin/plugin.go.
const LogFile = "istio-cni.log"

// Limits of the log.
const (
	maxLogFile = 10 << 20
	logPost    = 500 * time.Millisecond
)

// Deliver appends the lines to istio-cni.log in dir, starting over when it has grown large, and gives them to the agent
// at log.sock if it listens. istio/istio cni/pkg/plugin/plugin.go and cni/pkg/log.
func (l *Log) Deliver(ctx context.Context, dir string) error {
	if l.buf.Len() == 0 || dir == "" {
		return nil
	}
	return errors.Join(l.append(filepath.Join(dir, LogFile)), l.post(ctx, filepath.Join(dir, "log.sock")))
}

func (l *Log) append(path string) error {
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLogFile {
		if err := os.Rename(path, path+".1"); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(l.buf.Bytes())
	return errors.Join(err, f.Close())
}

func (l *Log) post(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, logPost)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://unix/log", bytes.NewReader(l.buf.Bytes()))
	if err != nil {
		return err
	}
	resp, err := unixClient(socket).Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
