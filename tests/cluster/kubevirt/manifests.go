package main

import (
	"encoding/json"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/components"
	"kubevirt.io/kubevirt/pkg/virt-operator/resource/generate/rbac"
)

const (
	namespace = "kubevirt"
	registry  = "docker.io/kubevirt"
	tag       = "v1.9.0"
	verbosity = "2"
)

// manifests prints a list of what a cluster needs before it has a KubeVirt: its definition and one virt-operator.
func manifests() error {
	definition, err := components.NewKubeVirtCrd()
	if err != nil {
		return err
	}
	items := []any{
		&corev1.Namespace{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"},
			ObjectMeta: metav1.ObjectMeta{
				Name:   namespace,
				Labels: map[string]string{"kubevirt.io": "", "pod-security.kubernetes.io/enforce": "privileged"},
			},
		},
		definition,
		components.NewKubeVirtPriorityClassCR(),
	}
	for _, right := range rbac.GetAllOperator(namespace) {
		items = append(items, right)
	}
	deployment := components.NewOperatorDeployment(namespace, registry, "", tag, verbosity,
		"", "", "", "", "", "", "", "", "", "", "", "", "", "", "", corev1.PullIfNotPresent)
	one := int32(1)
	deployment.Spec.Replicas = &one
	items = append(items, deployment)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": items})
}
