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

// Remove takes away all that Run installs: the entry first, so that the runtime never calls what is not there.
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
	paths := []string{filepath.Join(k.cfg.BinDir, Type)}
	if k.cfg.Kubeconfig != "" {
		paths = append(paths, k.cfg.Kubeconfig)
	}
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("uninstall the plugin: %w", err))
		}
	}
	if err := k.unstage(); err != nil {
		errs = append(errs, fmt.Errorf("uninstall the plugin: %w", err))
	}
	k.log.Info("the plugin is uninstalled", "conf", k.cfg.ConfDir)
	return errors.Join(errs...)
}
