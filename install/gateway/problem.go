package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Problem is something a proxy was told and could not put into force as it was written. The control plane cannot see it.
type Problem struct {
	Source string `json:"source"`
	// Objects are what to mend, as far as known; Type and Resource are what was refused otherwise.
	Objects  []string   `json:"objects,omitempty"`
	Type     string     `json:"type,omitempty"`
	Resource string     `json:"resource,omitempty"`
	Unit     string     `json:"unit,omitempty"`
	Text     string     `json:"text"`
	Kept     bool       `json:"kept"`
	Since    *time.Time `json:"since,omitempty"`
}

// ReadProblems decodes the answer of a proxy's /problems.
func ReadProblems(r io.Reader) ([]Problem, error) {
	out := []Problem{}
	if err := json.NewDecoder(r).Decode(&out); err != nil {
		return nil, fmt.Errorf("decode problems: %w", err)
	}
	return out, nil
}

// Object is what to look at first.
func (p Problem) Object() string {
	return cmp.Or(strings.Join(p.Objects, ", "), strings.TrimSpace(p.Type+" "+p.Resource), p.Unit)
}
