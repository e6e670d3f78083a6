// Package spec takes out of an OCI runtime specification what the machine cannot give.
//
// A container that asks for every capability ("privileged") cannot start where the machine itself runs without one of them,
// as in many sandboxes and nested containers. Trim asks for less. It does not know which runtime reads the result, keeps
// fields it has never heard of, and starts no goroutines. Start reading at Trim; cmd/ambit-runc is its only user.
package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Own is what this process has, and so the most that it can hand on.
type Own struct {
	// Capabilities is the bounding set as in /proc/self/status, bit n for capability n.
	Capabilities uint64
	// OOMScore is the own oom_score_adj: lowering it takes CAP_SYS_RESOURCE.
	OOMScore int
}

// names of the capabilities by number, from linux/capability.h.
var names = strings.Fields(`CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
	NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT
	SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
	MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

const sysResource = 24

// ParseStatus reads the bounding set from the text of /proc/self/status.
func ParseStatus(status string) (uint64, error) {
	for line := range strings.Lines(status) {
		if hex, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			if err != nil {
				return 0, fmt.Errorf("CapBnd in /proc/self/status: %w", err)
			}
			return bits, nil
		}
	}
	return 0, fmt.Errorf("no CapBnd in /proc/self/status")
}

// Lacks names the capabilities that a privileged container asks for and the process has not. known is the highest capability of
// the kernel (/proc/sys/kernel/cap_last_cap): what the kernel has never heard of is not missed.
func (o Own) Lacks(known int) []string {
	var out []string
	for n, name := range names {
		if n <= known && o.Capabilities&(1<<n) == 0 {
			out = append(out, "CAP_"+name)
		}
	}
	return out
}

// Trim changes the "process" object of a specification, as encoding/json decodes it, so that it asks for no more than own:
// capabilities, an oom_score_adj below the own one, and resource limits, which cannot be raised without CAP_SYS_RESOURCE.
func Trim(process map[string]any, own Own) {
	lacked := own.Lacks(len(names) - 1)
	if sets, ok := process["capabilities"].(map[string]any); ok {
		for set, v := range sets {
			list, _ := v.([]any)
			sets[set] = slices.DeleteFunc(list, func(c any) bool {
				s, _ := c.(string)
				return slices.Contains(lacked, s)
			})
		}
	}
	if own.Capabilities&(1<<sysResource) != 0 {
		return
	}
	if adj, ok := process["oomScoreAdj"].(float64); ok && int(adj) < own.OOMScore {
		process["oomScoreAdj"] = own.OOMScore
	}
	delete(process, "rlimits")
}
