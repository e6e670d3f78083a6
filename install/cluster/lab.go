package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
)

// lab asks the supervisor of a lab, which plays API server: JSON over HTTP on a unix socket.
type lab struct {
	*labfile.Lab
	http   *http.Client
	socket string
}

// Lab is the mesh of a lab on this machine.
func Lab(l *labfile.Lab) Mesh {
	socket := l.Supervisor
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
	}
	return &lab{Lab: l, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, socket: socket}
}

const (
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 256 << 20
	// poll is how often a lab is asked for news: it has no watch.
	poll = 100 * time.Millisecond
)

func (l *lab) call(ctx context.Context, method, path string, query url.Values, body, out any) error {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the question: %w", err)
		}
		in = bytes.NewReader(data)
	}
	u := url.URL{Scheme: "http", Host: "lab", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), in)
	if err != nil {
		return fmt.Errorf("ask the lab: %w", err)
	}
	resp, err := l.http.Do(req)
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("labs are for root: try again with sudo (%s: permission denied)", l.socket)
	}
	if err != nil {
		return fmt.Errorf("the lab's supervisor does not answer on %s; see \"ambitctl lab list\": %w", l.socket, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the lab's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		text := string(bytes.TrimSpace(data))
		if strings.HasSuffix(text, ": not found") {
			return fmt.Errorf("%s: %w", strings.TrimSuffix(text, ": not found"), ErrNotFound)
		}
		return errors.New(text)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode the lab's answer: %w", err)
	}
	return nil
}

func (l *lab) objects(ctx context.Context, kind, namespace, name string) ([]Object, error) {
	q := url.Values{"kind": {kind}, "namespace": {namespace}, "name": {name}}
	if namespace == "" {
		q.Set("all", "1")
	}
	var out struct {
		Items []Object `json:"items"`
	}
	err := l.call(ctx, http.MethodGet, "/v1/objects", q, nil, &out)
	return out.Items, err
}

func (l *lab) Get(ctx context.Context, kind, namespace, n string) (Object, error) {
	list, err := l.objects(ctx, kind, namespace, n)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: %w", name(kind, namespace, n), ErrNotFound)
	}
	return list[0], nil
}

func (l *lab) List(ctx context.Context, kind, namespace string) ([]Object, error) {
	return l.objects(ctx, kind, namespace, "")
}

// result is what became of one document.
type result struct {
	Error string `json:"error"`
}

func refused(list []result) error {
	for _, r := range list {
		if text, ok := strings.CutSuffix(r.Error, ": not found"); ok {
			return fmt.Errorf("%s: %w", text, ErrNotFound)
		}
		if r.Error != "" {
			return errors.New(r.Error)
		}
	}
	return nil
}

func (l *lab) Apply(ctx context.Context, o Object) error {
	var results []result
	// JSON is YAML.
	if err := l.call(ctx, http.MethodPost, "/v1/apply", url.Values{"namespace": {o.Namespace()}}, o, &results); err != nil {
		return err
	}
	return refused(results)
}

func (l *lab) Label(ctx context.Context, kind, namespace, name string, set map[string]string, remove ...string) error {
	return l.call(ctx, http.MethodPost, "/v1/label", nil, map[string]any{
		"kind": kind, "namespace": namespace, "name": name, "set": set, "remove": remove,
	}, nil)
}

func (l *lab) Delete(ctx context.Context, kind, namespace, name string) error {
	var results []result
	q := url.Values{"kind": {kind}, "namespace": {namespace}, "name": {name}}
	if err := l.call(ctx, http.MethodPost, "/v1/delete", q, nil, &results); err != nil {
		return err
	}
	return refused(results)
}

func (l *lab) Watch(ctx context.Context, kind, namespace string, seen func([]Object) bool) error {
	var before []Object
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for first := true; ; first = false {
		list, err := l.List(ctx, kind, namespace)
		if err != nil {
			return err
		}
		if first || !reflect.DeepEqual(list, before) {
			if seen(list) {
				return nil
			}
			before = list
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
