package daemon

import (
	"fmt"
	"net"
	"net/http"

	"github.com/ambit-mesh/ambit/ca/issuer"
)

// authorityDump is the config_dump of the authority inside, in the form of the stand-alone one's.
type authorityDump struct {
	issuer.Dump
	TrustedNodeAccounts []string `json:"trustedNodeAccounts"`
	Warnings            []string `json:"warnings"`
}

// authority answers about the authority inside, in the words of the stand-alone one.
func (d *Daemon) authority() http.Handler {
	mux := http.NewServeMux()
	open := func(h func(http.ResponseWriter, *http.Request, *issuer.Issuer)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if d.cluster == nil || d.cluster.authority == nil {
				http.Error(w, "this control plane issues no certificates: its own come from --tls-dir, those of proxies from an authority of their own", http.StatusNotFound)
				return
			}
			iss := d.cluster.issuer.Load()
			if iss == nil {
				http.Error(w, "the authority is not open yet", http.StatusServiceUnavailable)
				return
			}
			h(w, r, iss)
		}
	}
	mux.HandleFunc("GET /ca/config_dump", open(func(w http.ResponseWriter, _ *http.Request, iss *issuer.Issuer) { reply(w, d.authorityDump(iss)) }))
	mux.HandleFunc("GET /ca/roots", open(func(w http.ResponseWriter, _ *http.Request, iss *issuer.Issuer) {
		w.Header().Set("Content-Type", "application/x-pem-file")
		_, _ = w.Write(iss.Bundle().PEM())
	}))
	mux.HandleFunc("POST /ca/rotate", open(func(w http.ResponseWriter, r *http.Request, _ *issuer.Issuer) {
		// A loopback port is open to every user of a machine; in a pod there is nobody else.
		if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !d.cfg.InCluster && (!ok || addr.Network() != "unix") {
			http.Error(w, "only over --admin-socket, or in a pod", http.StatusForbidden)
			return
		}
		if err := d.cluster.authority.RotateNow(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, "rotated")
	}))
	// A page in the browser of somebody who forwards the port must not rotate the root.
	return http.NewCrossOriginProtection().Handler(mux)
}

func (d *Daemon) authorityDump(iss *issuer.Issuer) authorityDump {
	out := authorityDump{Dump: iss.Dump(), TrustedNodeAccounts: d.cfg.TrustedNodeAccounts}
	if err := iss.Refused(); err != nil {
		out.Warnings = append(out.Warnings, err.Error())
	}
	return out
}
