package resource

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Volume is a directory that containers of a pod may mount. One of the fields beside the name is set; a volume of a kind
// that the lab does not have is an empty directory.
type Volume struct {
	Name      string        `json:"name"`
	HostPath  *HostPath     `json:"hostPath"`
	ConfigMap *FilesOf      `json:"configMap"`
	Secret    *SecretVolume `json:"secret"`
	Downward  *Downward     `json:"downwardAPI"`
	Projected *Projected    `json:"projected"`
}

// HostPath is a file or folder of the machine.
type HostPath struct {
	Path string `json:"path"`
}

// FilesOf are keys of a ConfigMap or Secret as files, all of them if there are no items.
type FilesOf struct {
	Name     string    `json:"name"`
	Items    []KeyFile `json:"items"`
	Optional bool      `json:"optional"`
}

// KeyFile is a key and the file it becomes.
type KeyFile struct {
	Key  string `json:"key"`
	Path string `json:"path"`
}

// SecretVolume names its Secret differently.
type SecretVolume struct {
	SecretName string    `json:"secretName"`
	Items      []KeyFile `json:"items"`
	Optional   bool      `json:"optional"`
}

// Downward are fields of the pod as files.
type Downward struct {
	Items []struct {
		Path     string `json:"path"`
		FieldRef *struct {
			FieldPath string `json:"fieldPath"`
		} `json:"fieldRef"`
		ResourceFieldRef *ResourceField `json:"resourceFieldRef"`
	} `json:"items"`
}

// ResourceField is a limit or request of a container.
type ResourceField struct {
	ContainerName string `json:"containerName"`
	Resource      string `json:"resource"`
}

// Projected are several sources in one directory.
type Projected struct {
	Sources []struct {
		Token *struct {
			Audience          string `json:"audience"`
			ExpirationSeconds int    `json:"expirationSeconds"`
			Path              string `json:"path"`
		} `json:"serviceAccountToken"`
		ConfigMap *FilesOf  `json:"configMap"`
		Secret    *FilesOf  `json:"secret"`
		Downward  *Downward `json:"downwardAPI"`
	} `json:"sources"`
}

// Mount shows a volume, or a part of it, in a container.
type Mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	SubPath   string `json:"subPath"`
	ReadOnly  bool   `json:"readOnly"`
}

func (s *PodSpec) checkVolumes(at string) error {
	var names []string
	for _, v := range s.Volumes {
		if v.Name == "" || strings.ContainsAny(v.Name, "/ ") || v.Name[0] == '.' || slices.Contains(names, v.Name) {
			return fmt.Errorf("%s.volumes: %q is no name for a volume, or stands twice", at, v.Name)
		}
		names = append(names, v.Name)
	}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		for _, m := range c.VolumeMounts {
			switch {
			case !slices.Contains(names, m.Name):
				return fmt.Errorf("%s.containers[%s].volumeMounts: there is no volume %q", at, c.Name, m.Name)
			case !path.IsAbs(m.MountPath) || path.Clean(m.MountPath) == "/":
				return fmt.Errorf("%s.containers[%s].volumeMounts: mountPath %q is not the path of a folder", at, c.Name, m.MountPath)
			case strings.Contains("/"+m.SubPath+"/", "/../"):
				return fmt.Errorf("%s.containers[%s].volumeMounts: subPath %q leads out of the volume", at, c.Name, m.SubPath)
			}
		}
	}
	return nil
}

// Limit is the value of a limit or request in whole cores or bytes, as an environment variable has it; "" if there is none.
func (s *PodSpec) Limit(container string, f ResourceField) string {
	if f.ContainerName != "" {
		container = f.ContainerName
	}
	kind, name, _ := strings.Cut(f.Resource, ".")
	for _, c := range s.Containers {
		if c.Name != container {
			continue
		}
		list := c.Resources.Limits
		if kind == "requests" {
			list = c.Resources.Requests
		}
		if n, ok := quantity(string(list[name])); ok {
			return strconv.FormatInt(int64(math.Ceil(n)), 10)
		}
	}
	return ""
}

// quantity reads a number with one of Kubernetes' suffixes.
func quantity(s string) (float64, bool) {
	units := []struct {
		suffix string
		factor float64
	}{
		{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"m", 1e-3}, {"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"", 1},
	}
	for _, u := range units {
		if text, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseFloat(text, 64)
			return n * u.factor, err == nil && n >= 0 && !math.IsInf(n, 0)
		}
	}
	return 0, false
}
