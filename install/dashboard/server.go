// Package dashboard shows the picture of a mesh in a browser on the same machine, and keeps it up to date.
//
// It knows HTTP and the page; where pictures come from is the caller's. The page can only look: nothing it may ask for changes
// anything. A loopback port is open to everybody on a machine and to every page in a browser, so that a key is asked for which
// only the printed address holds, and requests under foreign host names are refused. Run and what it starts end together.
// Start reading at Server.
package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/ambit-mesh/ambit/install/picture"
)

//go:embed page
var page embed.FS

// Config of a Server. Draw and Title are required.
type Config struct {
	// Title names the mesh.
	Title string
	// Draw makes a picture. It is called by one goroutine at a time, and only while somebody looks.
	Draw func(ctx context.Context) picture.Picture
	// Every is how long to wait between pictures.
	Every  time.Duration
	Logger *slog.Logger
}

// Server serves the page. Make it with New.
type Server struct {
	cfg   Config
	key   string
	index *template.Template

	mu      sync.Mutex
	latest  []byte        // guarded by mu; JSON of the last picture
	news    chan struct{} // guarded by mu; closed when there is another
	lookers int           // guarded by mu
	wake    chan struct{} // somebody began to look
}

const defaultEvery = 3 * time.Second

// New does nothing yet.
func New(cfg Config) (*Server, error) {
	if cfg.Every == 0 {
		cfg.Every = defaultEvery
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	index, err := template.ParseFS(page, "page/index.html")
	if err != nil {
		return nil, fmt.Errorf("the page: %w", err)
	}
	return &Server{cfg: cfg, key: rand.Text(), index: index, news: make(chan struct{}), wake: make(chan struct{}, 1)}, nil
}

// Address is what to open in a browser for a listener's address.
func (s *Server) Address(at net.Addr) string { return fmt.Sprintf("http://%s/?key=%s", at, s.key) }

// Run serves until ctx ends, which returns nil.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{Handler: s.handler(l.Addr().String()), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	var wg sync.WaitGroup
	wg.Go(func() { s.draw(ctx) })
	wg.Go(func() {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(end) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(l)
	stop()
	wg.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// draw makes pictures while somebody looks.
func (s *Server) draw(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.mu.Lock()
		looking := s.lookers > 0
		s.mu.Unlock()
		if !looking {
			select {
			case <-ctx.Done():
				return
			case <-s.wake:
			}
		}
		text, err := json.Marshal(s.cfg.Draw(ctx))
		if err != nil {
			s.cfg.Logger.Error("the picture cannot be encoded", "err", err)
		} else if ctx.Err() == nil {
			s.mu.Lock()
			s.latest = text
			close(s.news)
			s.news = make(chan struct{})
			s.mu.Unlock()
		}
		timer.Reset(s.cfg.Every)
	}
}

const cookie = "ambit-dashboard"

// handler checks who asks before anything else.
func (s *Server) handler(self string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.serveIndex)
	mux.HandleFunc("GET /events", s.serveEvents)
	mux.HandleFunc("GET /picture.json", s.servePicture)
	for _, name := range []string{"dashboard.js", "graph.js", "dashboard.css"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-store")
			http.ServeFileFS(w, r, page, "page/"+name)
		})
	}
	_, port, _ := net.SplitHostPort(self)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		// A page that has its own name point at this machine would otherwise be of our origin.
		if host, p, err := net.SplitHostPort(r.Host); err != nil || p != port || host != "127.0.0.1" && host != "localhost" && host != "::1" {
			http.Error(w, "this page is at http://127.0.0.1:"+port+" only", http.StatusMisdirectedRequest)
			return
		}
		if s.is(r.URL.Query().Get("key")) && r.URL.Path == "/" {
			// Cookies know no ports, hence the name. The key leaves the address bar.
			http.SetCookie(w, &http.Cookie{Name: cookie + "-" + port, Value: s.key, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			// A redirection would come from another site for a browser that was sent here by one: the cookie would stay away.
			fmt.Fprint(w, `<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>Ambit</title>`)
			return
		}
		if c, err := r.Cookie(cookie + "-" + port); err != nil || !s.is(c.Value) {
			http.Error(w, "open the address that ambitctl dashboard has printed: it holds the key", http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (s *Server) is(key string) bool {
	return subtle.ConstantTimeCompare([]byte(key), []byte(s.key)) == 1
}

func (s *Server) serveIndex(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := s.index.Execute(w, s.cfg); err != nil {
		s.cfg.Logger.Debug("page not written", "err", err)
	}
}

// look counts who looks; the first one to do so wakes the drawing.
func (s *Server) look() (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lookers++; s.lookers == 1 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lookers--
	}
}

func (s *Server) current() (latest []byte, news <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, s.news
}

// serveEvents sends each picture as it comes. WHATWG HTML, server-sent events.
func (s *Server) serveEvents(w http.ResponseWriter, r *http.Request) {
	defer s.look()()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	for {
		latest, news := s.current()
		if latest != nil {
			// JSON has no line ends, so that it is one event.
			if _, err := fmt.Fprintf(w, "data: %s\n\n", latest); err != nil {
				return
			}
		} else if _, err := fmt.Fprint(w, ": the first picture is being drawn\n\n"); err != nil {
			return
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}

// servePicture answers with the next picture, for tools.
func (s *Server) servePicture(w http.ResponseWriter, r *http.Request) {
	defer s.look()()
	latest, news := s.current()
	if latest == nil {
		select {
		case <-news:
			latest, _ = s.current()
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Disposition", `attachment; filename="picture.json"`)
	_, _ = w.Write(latest)
}

// Local reports whether an address is this machine's own only.
func Local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
