package chain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// unstage removes what an agent before has left half written: a program is large, and a kubeconfig has a token in it.
func (k *Keeper) unstage() error {
	errs := []error{unstage(k.cfg.ConfDir), unstage(k.cfg.BinDir)}
	if k.cfg.Kubeconfig != "" {
		errs = append(errs, unstage(filepath.Dir(k.cfg.Kubeconfig)))
	}
	return errors.Join(errs...)
}

// Remove takes away all that Run installs but the program. A runtime may take a pod down with the configuration it was started
// with: CRI-O keeps it (cri-o/ocicni pkg/ocicni, GetNetworkListCachedConfig of libcni), and so does Multus for its delegates. A program
// that such a configuration names and that is not there would keep those pods from ending; ours answers DEL with success and needs nobody
// for it.
func (k *Keeper) Remove() error {
	var errs []error
	for range often {
		files, err := read(k.cfg.ConfDir)
		if err != nil {
			errs = append(errs, err)
			break
		}
		raced := false
		for _, c := range Undo(files, k.cfg.Settings) {
			err := apply(k.cfg.ConfDir, c)
			raced = raced || errors.Is(err, errRaced)
			if err != nil && !errors.Is(err, errRaced) {
				errs = append(errs, err)
			}
		}
		if !raced {
			break
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("uninstall the plugin: %w", errors.Join(errs...))
	}
	if k.cfg.Kubeconfig != "" {
		if err := os.Remove(k.cfg.Kubeconfig); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("uninstall the plugin: %w", err))
		}
	}
	if err := k.unstage(); err != nil {
		errs = append(errs, fmt.Errorf("uninstall the plugin: %w", err))
	}
	k.log.Info("the plugin is uninstalled; its program stays, for pods that were started with it", "conf", k.cfg.ConfDir)
	return errors.Join(errs...)
}
