package deploy

import (
	"cmp"
	"strconv"
)

// autoscaler is rendered when the configuration or an overlay asks for one.
func (r renderer) autoscaler() Object {
	a := Autoscaling{Min: 1, Max: 5}
	if r.c.Autoscaling != nil {
		a = *r.c.Autoscaling
	}
	return Object{"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": r.meta(), "spec": Object{
		"scaleTargetRef": Object{"apiVersion": "apps/v1", "kind": "Deployment", "name": r.g.ServiceName()},
		"minReplicas":    int64(cmp.Or(a.Min, 1)), "maxReplicas": int64(max(a.Max, a.Min, 1)),
		"metrics": []any{Object{"type": "Resource", "resource": Object{
			"name": "cpu", "target": Object{"type": "Utilization", "averageUtilization": int64(cmp.Or(a.CPUPercent, 80))},
		}}},
		"behavior": Object{"scaleDown": Object{
			"stabilizationWindowSeconds": int64(cmp.Or(a.StabilizeSeconds, 300)),
			"policies":                   []any{Object{"type": "Pods", "value": int64(1), "periodSeconds": int64(60)}},
		}},
	}}
}

// budget is rendered when the configuration or an overlay asks for one.
func (r renderer) budget() Object {
	var least any = cmp.Or(r.c.MinAvailable, "1")
	if n, err := strconv.ParseInt(cmp.Or(r.c.MinAvailable, "1"), 10, 64); err == nil {
		least = n
	}
	return Object{"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": r.meta(), "spec": Object{
		"minAvailable": least, "selector": Object{"matchLabels": anyMap(r.g.Selector())},
	}}
}
