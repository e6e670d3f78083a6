package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Balancer gives Services of type LoadBalancer addresses out of a range, as a cloud would. Nodes take these addresses in
// (kube-proxy does), so that a route to any node is all it needs to reach them.
type Balancer struct {
	Client kubernetes.Interface
	Range  netip.Prefix
	// Log hears what was done.
	Log func(format string, args ...any)
}

// look is how often Services are looked at. Tests wait for addresses for minutes, and there are few Services.
const look = 300 * time.Millisecond

// Run hands out addresses until ctx ends.
func (b Balancer) Run(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if err := b.round(ctx); err != nil && ctx.Err() == nil {
			b.Log("addresses of LoadBalancers: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b Balancer) round(ctx context.Context) error {
	list, err := b.Client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	taken := map[netip.Addr]bool{}
	var waiting []*corev1.Service
	for i := range list.Items {
		s := &list.Items[i]
		if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		have := false
		for _, in := range s.Status.LoadBalancer.Ingress {
			if ip, err := netip.ParseAddr(in.IP); err == nil {
				taken[ip], have = true, true
			}
		}
		if !have {
			waiting = append(waiting, s)
		}
	}
	for _, s := range waiting {
		ip, ok := b.pick(s.Spec.LoadBalancerIP, taken)
		if !ok {
			continue // somebody asked for an address that is not to be had
		}
		taken[ip] = true
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip.String()}}
		_, err := b.Client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, s, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("%s/%s: %w", s.Namespace, s.Name, err)
		}
	}
	return nil
}

// pick is the address asked for if the range has it, or else any that is free.
func (b Balancer) pick(wanted string, taken map[netip.Addr]bool) (netip.Addr, bool) {
	if wanted != "" {
		ip, err := netip.ParseAddr(wanted)
		return ip, err == nil && b.Range.Contains(ip) && !taken[ip]
	}
	for ip := b.Range.Addr().Next().Next().Next(); b.Range.Contains(ip); ip = ip.Next() {
		if !taken[ip] {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// Usable and Unusable are an address that a Gateway may ask for, and one that it cannot have.
func (b Balancer) Usable() netip.Addr { return b.Range.Addr().Next() }

// Unusable is an address of a range reserved for documentation (RFC 5737).
func (b Balancer) Unusable() netip.Addr { return netip.AddrFrom4([4]byte{203, 0, 113, 13}) }
