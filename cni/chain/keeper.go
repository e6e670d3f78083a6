package chain

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// Config of a Keeper.
type Config struct {
	Settings
	// ConfDir and BinDir are the node's folders, where the agent sees them.
	ConfDir, BinDir string
	// Program is the plugin's, to be copied to BinDir.
	Program string
	// Kubeconfig is the file by which the plugin asks the API server, written with what Credentials return; empty for none. An
	// error that comes with content says what is second best about it: it is written all the same, and the error is a Warning.
	Kubeconfig     string
	KubeconfigMode fs.FileMode
	Credentials    func() ([]byte, error)
	// Every is how often all is looked at without being told of a change.
	Every time.Duration
}

// Results of an attempt, in the words of Istio's metric (istio/istio cni/pkg/install/install.go).
const (
	resultOK          = "SUCCESS"
	resultProgram     = "COPY_BINARIES_FAILURE"
	resultCredentials = "CREATE_KUBECONFIG_FAILURE"
	resultConf        = "CREATE_CNI_CONFIG_FAILURE"
)

// Keeper installs the plugin and keeps it installed. Err, Warning and Remove may be called from any goroutine.
type Keeper struct {
	cfg      Config
	log      *slog.Logger
	installs *prometheus.CounterVec

	mu      sync.Mutex
	err     error // guarded by mu: what stands in the way
	warning error // guarded by mu: what does not, and should be known
	mine    stat  // owned by Run: the program as it was installed
	// done are when changes were made of late, owned by Run.
	done []time.Time
}

// New prepares a keeper; Run does the work.
func New(cfg Config, log *slog.Logger, r prometheus.Registerer) *Keeper {
	k := &Keeper{
		cfg: cfg, log: log.With("area", "install"), err: errors.New("the CNI configuration was not looked at yet"),
		installs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_cni_installs_total", Help: "attempts to install the plugin on the node, by result",
		}, []string{"result"}),
	}
	r.MustRegister(k.installs)
	return k
}

// Err is what keeps the runtime from calling the plugin for new pods; nil if nothing does.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Warning is what is not as it should be of a plugin that is called all the same; nil if nothing.
func (k *Keeper) Warning() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.warning
}

// A network plugin that wants no other beside it (Cilium with cni.exclusive) writes as often as we do. Having mended this
// often within window, the keeper waits pause before the next time.
const (
	often  = 10
	window = 10 * time.Second
	pause  = time.Second
)

// Run keeps the plugin installed until ctx ends, or one of the folders is deleted. What is installed stays.
func (k *Keeper) Run(ctx context.Context) error {
	for _, dir := range []string{k.cfg.ConfDir, k.cfg.BinDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("folder of the node's network plugins: %w", err)
		}
	}
	if err := k.unstage(); err != nil {
		k.log.Warn("files stay that nobody needs", "err", err)
	}
	var events chan fsnotify.Event
	var troubles chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		err = errors.Join(watcher.Add(k.cfg.ConfDir), watcher.Add(k.cfg.BinDir))
		events, troubles = watcher.Events, watcher.Errors
	}
	if err != nil {
		k.log.Warn("changes by others are seen late", "every", k.cfg.Every, "err", err)
	}
	ticker := time.NewTicker(k.cfg.Every)
	defer ticker.Stop()
	for {
		if err := k.mounted(); err != nil {
			return err
		}
		k.round()
		if !k.calm(ctx) {
			return nil
		}
		if !k.news(ctx, ticker.C, events, troubles) {
			return nil
		}
	}
}

// mounted looks whether the folders are still the node's. Where one of them is mounted and somebody deletes it on the node, as
// kubeadm reset does, what is mounted is the deleted folder, empty for ever, while the node has another. Only a new container sees that.
func (k *Keeper) mounted() error {
	for _, dir := range []string{k.cfg.ConfDir, k.cfg.BinDir} {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err == nil && st.Nlink == 0 {
			err := fmt.Errorf("folder %s was deleted on the node, and another may be in its place: the agent has to start again to see it", dir)
			k.mu.Lock()
			k.err = err
			k.mu.Unlock()
			return err
		}
	}
	return nil
}

// news waits for a reason to look again. What the keeper itself is writing is none: on a full disk it would never rest.
func (k *Keeper) news(ctx context.Context, tick <-chan time.Time, events <-chan fsnotify.Event, troubles <-chan error) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case e := <-events:
			if !strings.HasPrefix(filepath.Base(e.Name), stagePrefix) {
				return true
			}
		case err := <-troubles:
			// Something was missed, so everything is looked at.
			k.log.Debug("watch of the node's network plugins", "err", err)
			return true
		}
	}
}

// calm waits if there was much to do of late. It returns false when ctx has ended.
func (k *Keeper) calm(ctx context.Context) bool {
	if len(k.done) < often || time.Since(k.done[len(k.done)-often]) > window {
		return ctx.Err() == nil
	}
	k.log.Warn("somebody else changes the CNI configuration all the time; the plugin is put back once a second (Cilium: cni.exclusive=false)", "dir", k.cfg.ConfDir)
	k.done = nil
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// round looks at everything and mends what is not as it should be.
func (k *Keeper) round() {
	changed, result, err := k.mend()
	for range often {
		if !errors.Is(err, errRaced) {
			break
		}
		changed, result, err = k.mend()
	}
	k.mu.Lock()
	before := k.err
	k.err = err
	k.mu.Unlock()
	if changed {
		k.done = append(k.done, time.Now())
		k.done = k.done[max(0, len(k.done)-often):]
	}
	if err != nil {
		if before == nil || before.Error() != err.Error() {
			k.installs.WithLabelValues(result).Inc()
			k.log.Warn("new pods of the mesh may not be captured when they start", "err", err)
		}
		return
	}
	if changed || before != nil {
		k.installs.WithLabelValues(resultOK).Inc()
	}
}

// mend does the program and the kubeconfig first: the configuration must not name what is not there. Older ones that cannot
// be replaced are better than none.
func (k *Keeper) mend() (changed bool, result string, err error) {
	changed, old := k.program()
	if old != nil {
		if !there(filepath.Join(k.cfg.BinDir, Type)) {
			return changed, resultProgram, old
		}
		result = resultProgram
	}
	if err := k.credentials(); err != nil {
		if !there(k.cfg.Kubeconfig) {
			return changed, resultCredentials, errors.Join(old, err)
		}
		old, result = errors.Join(old, err), cmp.Or(result, resultCredentials)
	}
	conf, latest, err := k.configuration()
	if old == nil || errors.Is(err, errRaced) {
		return changed || conf, latest, err
	}
	return changed || conf, result, errors.Join(old, err)
}

func there(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}

// configuration has the runtime call the plugin.
func (k *Keeper) configuration() (changed bool, result string, err error) {
	files, err := read(k.cfg.ConfDir)
	if err != nil {
		return changed, resultConf, err
	}
	plan, err := Plan(files, k.cfg.Settings)
	if err != nil {
		return changed, resultConf, fmt.Errorf("%s: %w", k.cfg.ConfDir, err)
	}
	for _, c := range plan {
		if err := apply(k.cfg.ConfDir, c); err != nil {
			return changed, resultConf, err
		}
		changed = true
		k.log.Info("CNI configuration is changed", "file", c.Name, "renamed", c.To)
	}
	return changed, resultOK, nil
}

// stat tells cheaply whether a file is still the same.
type stat struct {
	size int64
	at   time.Time
	mode fs.FileMode
}

func (k *Keeper) program() (bool, error) {
	to := filepath.Join(k.cfg.BinDir, Type)
	if fi, err := os.Stat(to); err == nil && k.mine == (stat{fi.Size(), fi.ModTime(), fi.Mode()}) {
		return false, nil
	}
	changed, err := install(k.cfg.Program, to)
	if err != nil {
		return false, err
	}
	fi, err := os.Stat(to)
	if err != nil {
		return false, fmt.Errorf("the plugin's program: %w", err)
	}
	k.mine = stat{fi.Size(), fi.ModTime(), fi.Mode()}
	if changed {
		k.log.Info("the plugin's program is installed", "file", to)
	}
	return changed, nil
}

func (k *Keeper) credentials() error {
	if k.cfg.Kubeconfig == "" {
		return nil
	}
	want, err := k.cfg.Credentials()
	if err != nil {
		err = fmt.Errorf("the plugin's kubeconfig: %w", err)
		if want == nil {
			return err
		}
	}
	k.warn(err)
	if have, err := os.ReadFile(k.cfg.Kubeconfig); err == nil && bytes.Equal(have, want) {
		if fi, err := os.Stat(k.cfg.Kubeconfig); err == nil && fi.Mode().Perm() == k.cfg.KubeconfigMode {
			return nil
		}
	}
	err = os.MkdirAll(filepath.Dir(k.cfg.Kubeconfig), 0o755)
	if err == nil {
		var tmp string
		if tmp, err = stage(k.cfg.Kubeconfig, bytes.NewReader(want), k.cfg.KubeconfigMode); err == nil {
			err = os.Rename(tmp, k.cfg.Kubeconfig)
		}
	}
	if err != nil {
		return fmt.Errorf("the plugin's kubeconfig: %w", err)
	}
	return nil
}

// warn has Warning return err, and tells of it when that is new.
func (k *Keeper) warn(err error) {
	k.mu.Lock()
	before := k.warning
	k.warning = err
	k.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		k.log.Warn("the plugin is called for new pods, and something is not as it should be", "err", err)
	} else if err == nil && before != nil {
		k.log.Info("the plugin's kubeconfig is as it should be again")
	}
}
