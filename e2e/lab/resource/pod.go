package resource

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// PodSpec is what the lab reads of a pod's spec.
type PodSpec struct {
	NodeName                      string            `json:"nodeName"`
	NodeSelector                  map[string]string `json:"nodeSelector"`
	ServiceAccountName            string            `json:"serviceAccountName"`
	HostNetwork                   bool              `json:"hostNetwork"`
	Hostname                      string            `json:"hostname"`
	Subdomain                     string            `json:"subdomain"`
	RestartPolicy                 string            `json:"restartPolicy"`
	TerminationGracePeriodSeconds *int              `json:"terminationGracePeriodSeconds"`
	InitContainers                []Container       `json:"initContainers"`
	Containers                    []Container       `json:"containers"`
	SecurityContext               Security          `json:"securityContext"`
	HostAliases                   []HostAlias       `json:"hostAliases"`
	Volumes                       []Volume          `json:"volumes"`
}

// HostAlias is a line for /etc/hosts.
type HostAlias struct {
	IP        string   `json:"ip"`
	Hostnames []string `json:"hostnames"`
}

// Security is what the lab reads of a security context.
type Security struct {
	RunAsUser  *uint32 `json:"runAsUser"`
	RunAsGroup *uint32 `json:"runAsGroup"`
	// Sysctls are a pod's, and only those of its network are its own.
	Sysctls []EnvVarPlain `json:"sysctls"`
}

// Container is what the lab reads of a container.
type Container struct {
	Name            string    `json:"name"`
	Command         []string  `json:"command"`
	Args            []string  `json:"args"`
	WorkingDir      string    `json:"workingDir"`
	Env             []EnvVar  `json:"env"`
	Ports           []Port    `json:"ports"`
	ReadinessProbe  *Probe    `json:"readinessProbe"`
	StartupProbe    *Probe    `json:"startupProbe"`
	LivenessProbe   *Probe    `json:"livenessProbe"`
	SecurityContext Security  `json:"securityContext"`
	Lifecycle       Lifecycle `json:"lifecycle"`
	VolumeMounts    []Mount   `json:"volumeMounts"`
	Resources       struct {
		Requests map[string]NumberOrName `json:"requests"`
		Limits   map[string]NumberOrName `json:"limits"`
	} `json:"resources"`
}

// Lifecycle has the hook that runs before a container is told to end.
type Lifecycle struct {
	PreStop *struct {
		Exec  *ExecAction `json:"exec"`
		Sleep *struct {
			Seconds int `json:"seconds"`
		} `json:"sleep"`
	} `json:"preStop"`
}

// EnvVar is an environment variable.
type EnvVar struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	ValueFrom *struct {
		FieldRef *struct {
			FieldPath string `json:"fieldPath"`
		} `json:"fieldRef"`
		ResourceFieldRef *ResourceField `json:"resourceFieldRef"`
	} `json:"valueFrom"`
}

// Port is a container's port.
type Port struct {
	Name          string `json:"name"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

// ExecAction is a command run inside the container.
type ExecAction struct {
	Command []string `json:"command"`
}

// Probe asks a container how it is.
type Probe struct {
	HTTPGet *struct {
		Path        string        `json:"path"`
		Port        NumberOrName  `json:"port"`
		Scheme      string        `json:"scheme"`
		HTTPHeaders []EnvVarPlain `json:"httpHeaders"`
	} `json:"httpGet"`
	TCPSocket *struct {
		Port NumberOrName `json:"port"`
	} `json:"tcpSocket"`
	Exec                *ExecAction `json:"exec"`
	InitialDelaySeconds int         `json:"initialDelaySeconds"`
	PeriodSeconds       int         `json:"periodSeconds"`
	TimeoutSeconds      int         `json:"timeoutSeconds"`
	SuccessThreshold    int         `json:"successThreshold"`
	FailureThreshold    int         `json:"failureThreshold"`
}

// EnvVarPlain is a name and a value.
type EnvVarPlain struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NumberOrName is a port given as number or by name.
type NumberOrName string

// UnmarshalJSON accepts both forms.
func (n *NumberOrName) UnmarshalJSON(data []byte) error {
	*n = NumberOrName(bytes.Trim(data, `"`))
	return nil
}

// MarshalJSON writes a number as a number.
func (n NumberOrName) MarshalJSON() ([]byte, error) {
	if i, err := strconv.Atoi(string(n)); err == nil {
		return json.Marshal(i)
	}
	return json.Marshal(string(n))
}

// PortNumber resolves a port against the pod's containers.
func (s *PodSpec) PortNumber(p NumberOrName) (int, bool) {
	if i, err := strconv.Atoi(string(p)); err == nil {
		return i, true
	}
	for _, c := range s.Containers {
		for _, port := range c.Ports {
			if port.Name == string(p) {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}

// ParsePodSpec decodes and checks the spec found at path.
func ParsePodSpec(o Object, path ...string) (*PodSpec, error) {
	var s PodSpec
	if err := o.Into(&s, path...); err != nil {
		return nil, err
	}
	at := strings.Join(path, ".")
	if len(s.Containers) == 0 {
		return nil, fmt.Errorf("%s.containers is empty", at)
	}
	if s.RestartPolicy == "" {
		s.RestartPolicy = "Always"
	}
	if !slices.Contains([]string{"Always", "OnFailure", "Never"}, s.RestartPolicy) {
		return nil, fmt.Errorf("%s.restartPolicy %q: Always, OnFailure or Never", at, s.RestartPolicy)
	}
	seen := map[string]bool{}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		if c.Name == "" || strings.ContainsAny(c.Name, "/_ ") {
			return nil, fmt.Errorf("%s.containers: name %q is not a container name", at, c.Name)
		}
		if seen[c.Name] {
			return nil, fmt.Errorf("%s.containers: two are called %q", at, c.Name)
		}
		seen[c.Name] = true
	}
	if err := s.checkVolumes(at); err != nil {
		return nil, err
	}
	return &s, nil
}

// Grace is the time between asking a pod to end and ending it.
func (s *PodSpec) Grace() int {
	if s.TerminationGracePeriodSeconds != nil {
		return max(0, *s.TerminationGracePeriodSeconds)
	}
	return 30
}
