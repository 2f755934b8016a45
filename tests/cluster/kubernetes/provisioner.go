package main

import (
	"context"
	"flag"
	"log"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storage "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	// folders is the provisioner of storage classes whose volumes are folders of nodes.
	folders = "remora.test/folders"
	// provisionedBy is the annotation that says whose a volume is.
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// shared is the parameter of classes whose volumes every node sees.
const shared = "shared"

// volumes makes a folder for each claim of a class of the provisioner, and removes it with its volume. A claim has all
// the access modes that it asks for, and the volume is of one node, or of a folder that all nodes have in common.
type volumes struct {
	client  kubernetes.Interface
	classes storage.StorageClassLister
	dir     string // Where a node has its volumes, as it sees that.
	node    string // The node that this runs on, which claims are given that wait for nothing.
	others  string // Where the state of the other nodes is, by their names.
}

func provisioner() int {
	flags := flag.NewFlagSet("provisioner", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig")
	dir := flags.String("dir", "", "where folders of volumes are on every node")
	node := flags.String("node", "", "this node's name")
	others := flags.String("others", "", "where the state of the other nodes is")
	flags.Parse(os.Args[1:])

	factory := informers.NewSharedInformerFactory(client(*kubeconfig), 0)
	v := volumes{client(*kubeconfig), factory.Storage().V1().StorageClasses().Lister(), *dir, *node, *others}
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	claims.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(claim any) { v.provision(claim.(*corev1.PersistentVolumeClaim)) },
		UpdateFunc: func(_, claim any) { v.provision(claim.(*corev1.PersistentVolumeClaim)) },
	})
	factory.Core().V1().PersistentVolumes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(volume any) { v.remove(volume.(*corev1.PersistentVolume)) },
		UpdateFunc: func(_, volume any) { v.remove(volume.(*corev1.PersistentVolume)) },
	})
	// A class may be made after its claims.
	factory.Storage().V1().StorageClasses().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) {
		for _, claim := range claims.GetStore().List() {
			v.provision(claim.(*corev1.PersistentVolumeClaim))
		}
	}})
	factory.Start(nil)
	select {}
}

// provision makes the volume of a claim that has none and waits for nothing.
func (v volumes) provision(claim *corev1.PersistentVolumeClaim) {
	if claim.Spec.VolumeName != "" || claim.Spec.StorageClassName == nil {
		return
	}
	class, err := v.classes.Get(*claim.Spec.StorageClassName)
	if err != nil || class.Provisioner != folders {
		return
	}
	node := v.node
	if mode := class.VolumeBindingMode; mode != nil && *mode == storagev1.VolumeBindingWaitForFirstConsumer {
		if node = claim.Annotations["volume.kubernetes.io/selected-node"]; node == "" {
			return // The scheduler has not chosen yet.
		}
	}
	name := "pvc-" + string(claim.UID)
	if class.Parameters[shared] == "true" {
		node = ""
	}
	path := v.path(name, node)
	if err := os.MkdirAll(v.here(path, node), 0o777); err != nil {
		log.Print(err)
		return
	}
	os.Chmod(v.here(path, node), 0o777) // Whatever the umask is.
	_, err = v.client.CoreV1().PersistentVolumes().Create(context.Background(), v.volume(name, path, node, claim, class), metav1.CreateOptions{})
	if err != nil && !errors.IsAlreadyExists(err) {
		log.Print(err)
	}
}

// path is where a node has the folder of a volume; no node stands for all.
func (v volumes) path(name, node string) string {
	if node == "" {
		return filepath.Join(v.dir, shared, name)
	}
	return filepath.Join(v.dir, "volumes", name)
}

// here is where that folder is for this process.
func (v volumes) here(path, node string) string {
	if node == "" || node == v.node {
		return path
	}
	return filepath.Join(v.others, node, "data", path[len("/var"):])
}

func (v volumes) volume(name, path, node string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: folders}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			StorageClassName:              class.Name,
			PersistentVolumeReclaimPolicy: *class.ReclaimPolicy,
			VolumeMode:                    claim.Spec.VolumeMode,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}},
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
		},
	}
	if node != "" {
		only := corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
		volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{only}}},
		}}
	}
	return volume
}

// nodeOf is the node that a volume is of.
func nodeOf(volume *corev1.PersistentVolume) string {
	if volume.Spec.NodeAffinity == nil {
		return ""
	}
	return volume.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values[0]
}

// remove deletes a volume that its claim has left, with its folder.
func (v volumes) remove(volume *corev1.PersistentVolume) {
	if volume.Annotations[provisionedBy] != folders || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return
	}
	if err := os.RemoveAll(v.here(volume.Spec.HostPath.Path, nodeOf(volume))); err != nil {
		log.Print(err)
		return
	}
	err := v.client.CoreV1().PersistentVolumes().Delete(context.Background(), volume.Name, metav1.DeleteOptions{})
	if err != nil && !errors.IsNotFound(err) {
		log.Print(err)
	}
}
