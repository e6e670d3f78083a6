package supervisor

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
)

// Files that whoever puts a mesh on the lab leaves in the lab's folder.
const (
	// TokenKeyFile is the key that an API server signs service account tokens with.
	TokenKeyFile = "mesh/token.key"
	// RootsFile has the mesh's root certificates. Every namespace has them as a ConfigMap, as the mesh does it in a cluster.
	RootsFile     = "mesh/roots.pem"
	rootsMap      = "istio-ca-root-cert"
	rootsKey      = "root-cert.pem"
	refreshPeriod = time.Second
	// tokens are renewed when this part of their life is over.
	renewAt = 0.8
)

// volumes are the directories of a pod, on its node's disk. Owned by the kubelet's goroutine and, after that has filled
// them, by refresh.
type volumes struct {
	k *kubelet
	// expiry of the tokens written, by file.
	renew map[string]time.Time
}

// volumes makes all volumes of the pod and fills them.
func (k *kubelet) makeVolumes(context.Context) error {
	v := &volumes{k: k, renew: map[string]time.Time{}}
	if err := v.fill(); err != nil {
		return err
	}
	k.volumes = v
	return k.sysctls()
}

// refresh keeps files that change up to date until ctx ends: tokens age, and roots are added.
func (v *volumes) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshPeriod)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if err := v.fill(); err != nil {
			v.k.s.log.Warn("volumes are not up to date", "pod", v.k.key.String(), "error", err)
		}
	}
}

// dir is private to root: what containers see is mounted from within it.
func (v *volumes) dir(elem ...string) string {
	return filepath.Join(append([]string{v.k.s.path("pods", v.k.uid, "volumes")}, elem...)...)
}

func (v *volumes) fill() error {
	if err := os.MkdirAll(v.dir(), 0o700); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	for _, vol := range v.k.spec.Volumes {
		if vol.HostPath != nil {
			continue
		}
		dir := v.dir(vol.Name)
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return fmt.Errorf("volume %s: %w", vol.Name, err)
		}
		files, err := v.files(vol)
		if err != nil {
			return fmt.Errorf("volume %s: %w", vol.Name, err)
		}
		if files == nil {
			// An empty directory belongs to whoever the container runs as.
			if err := os.Chmod(dir, 0o777); err != nil {
				return fmt.Errorf("volume %s: %w", vol.Name, err)
			}
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := replaceFile(dir, name, files[name]); err != nil {
				return fmt.Errorf("volume %s: %w", vol.Name, err)
			}
		}
	}
	return nil
}

// replaceFile writes a file of a volume so that a reader sees the old or the new one.
func replaceFile(dir, name string, data []byte) error {
	if !filepath.IsLocal(name) {
		return fmt.Errorf("file %q leads out of the volume", name)
	}
	path := filepath.Join(dir, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// files is the content of a volume; nil for one that is not made of files.
func (v *volumes) files(vol resource.Volume) (map[string][]byte, error) {
	switch {
	case vol.ConfigMap != nil:
		return v.filesOf("ConfigMap", *vol.ConfigMap)
	case vol.Secret != nil:
		return v.filesOf("Secret", resource.FilesOf{Name: vol.Secret.SecretName, Items: vol.Secret.Items, Optional: vol.Secret.Optional})
	case vol.Downward != nil:
		return v.downward(vol.Downward), nil
	case vol.Projected != nil:
		return v.projected(vol.Projected)
	}
	return nil, nil
}

func (v *volumes) projected(p *resource.Projected) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, src := range p.Sources {
		var files map[string][]byte
		var err error
		switch {
		case src.ConfigMap != nil:
			files, err = v.filesOf("ConfigMap", *src.ConfigMap)
		case src.Secret != nil:
			files, err = v.filesOf("Secret", *src.Secret)
		case src.Downward != nil:
			files = v.downward(src.Downward)
		case src.Token != nil:
			life := time.Duration(src.Token.ExpirationSeconds) * time.Second
			files, err = v.token(src.Token.Path, src.Token.Audience, life)
		}
		if err != nil {
			return nil, err
		}
		maps.Copy(out, files)
	}
	return out, nil
}

func (v *volumes) downward(d *resource.Downward) map[string][]byte {
	out := map[string][]byte{}
	for _, it := range d.Items {
		switch {
		case it.FieldRef != nil:
			out[it.Path] = []byte(v.k.field(it.FieldRef.FieldPath))
		case it.ResourceFieldRef != nil:
			out[it.Path] = []byte(v.k.spec.Limit("", *it.ResourceFieldRef))
		}
	}
	return out
}

// filesOf reads keys of a ConfigMap or Secret of the pod's namespace.
func (v *volumes) filesOf(kind string, f resource.FilesOf) (map[string][]byte, error) {
	all, err := v.data(resource.Key{Kind: kind, Namespace: v.k.key.Namespace, Name: f.Name})
	if err != nil {
		if f.Optional {
			return map[string][]byte{}, nil
		}
		return nil, err
	}
	if len(f.Items) == 0 {
		return all, nil
	}
	out := map[string][]byte{}
	for _, it := range f.Items {
		data, ok := all[it.Key]
		if !ok && !f.Optional {
			return nil, fmt.Errorf("%s %s has no key %q", kind, f.Name, it.Key)
		}
		out[it.Path] = data
	}
	return out, nil
}

func (v *volumes) data(k resource.Key) (map[string][]byte, error) {
	out := map[string][]byte{}
	found := false
	if !v.k.s.do(func() {
		st, ok := v.k.s.objects[k]
		if !ok {
			return
		}
		found = true
		for name, text := range st.object.Strings("data") {
			out[name] = []byte(text)
			if raw, err := base64.StdEncoding.DecodeString(text); err == nil && k.Kind == "Secret" {
				out[name] = raw
			}
		}
		for name, text := range st.object.Strings("stringData") {
			out[name] = []byte(text)
		}
	}) {
		return nil, errEnding
	}
	if found {
		return out, nil
	}
	if k.Kind == "ConfigMap" && k.Name == rootsMap {
		roots, err := os.ReadFile(v.k.s.path(RootsFile))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no ConfigMap %s: the lab has no mesh with root certificates", rootsMap)
		}
		return map[string][]byte{rootsKey: roots}, err
	}
	return nil, fmt.Errorf("there is no %s", k)
}

// token is a service account token for the pod, made anew when it has aged.
func (v *volumes) token(path, audience string, life time.Duration) (map[string][]byte, error) {
	if life <= 0 {
		life = time.Hour
	}
	if until, ok := v.renew[path]; ok && time.Now().Before(until) {
		return nil, nil
	}
	data, err := os.ReadFile(v.k.s.path(TokenKeyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the lab has no key to sign service account tokens with: it was started without the mesh")
	}
	if err != nil {
		return nil, err
	}
	key, err := token.ParseSigner(data)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := token.Claims{
		Namespace: v.k.key.Namespace, ServiceAccount: v.k.spec.ServiceAccountName, PodName: v.k.key.Name, PodUID: v.k.uid,
		Node: v.k.host.Name, Issuer: token.DefaultIssuer, IssuedAt: now, Expiry: now.Add(life),
	}
	if audience != "" {
		c.Audiences = []string{audience}
	}
	raw, err := token.Mint(key, c)
	if err != nil {
		return nil, err
	}
	v.renew[path] = now.Add(time.Duration(float64(life) * renewAt))
	return map[string][]byte{path: []byte(raw)}, nil
}

// mounts are what a container sees of the volumes, outer ones first.
func (k *kubelet) mounts(c resource.Container) []sandbox.Mount {
	var list []sandbox.Mount
	for _, m := range c.VolumeMounts {
		for _, vol := range k.spec.Volumes {
			if vol.Name != m.Name {
				continue
			}
			source := k.s.path("pods", k.uid, "volumes", vol.Name)
			if vol.HostPath != nil {
				source = vol.HostPath.Path
			}
			list = append(list, sandbox.Mount{Source: filepath.Join(source, m.SubPath), Target: m.MountPath, ReadOnly: m.ReadOnly})
		}
	}
	slices.SortStableFunc(list, func(a, b sandbox.Mount) int { return len(a.Target) - len(b.Target) })
	return list
}

// sysctls sets what the pod asks for of its own network.
func (k *kubelet) sysctls() error {
	for _, s := range k.spec.SecurityContext.Sysctls {
		rest, ok := strings.CutPrefix(s.Name, "net.")
		if !ok || k.netns == "" || strings.Contains(rest, "/") {
			return fmt.Errorf("sysctl %s is not the pod's own: only those of net are, in a pod with a network of its own", s.Name)
		}
		file := "/proc/sys/net/" + strings.ReplaceAll(rest, ".", "/")
		err := netspace.Do(netspace.Path(k.netns), func() error { return os.WriteFile(file, []byte(s.Value), 0o644) })
		if err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", s.Name, s.Value, err)
		}
	}
	return nil
}

// pairs spells labels or annotations as files of the downward API do.
func pairs(m map[string]string) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, name+"="+strconv.Quote(m[name]))
	}
	return strings.Join(lines, "\n")
}
