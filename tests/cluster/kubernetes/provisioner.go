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
	// folders is the provisioner of storage classes whose volumes are folders of the node.
	folders = "remora.test/folders"
	// provisionedBy is the annotation that says whose a volume is.
	provisionedBy = "pv.kubernetes.io/provisioned-by"
)

// volumes makes a folder for each claim of a class of the provisioner, and removes it with its volume. A claim has all
// the access modes that it asks for: there is one node.
type volumes struct {
	client  kubernetes.Interface
	classes storage.StorageClassLister
	dir     string
	node    string
}

func provisioner() int {
	flags := flag.NewFlagSet("provisioner", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig")
	dir := flags.String("dir", "", "where the volumes' folders go")
	node := flags.String("node", "", "the node's name")
	flags.Parse(os.Args[1:])

	factory := informers.NewSharedInformerFactory(client(*kubeconfig), 0)
	v := volumes{client(*kubeconfig), factory.Storage().V1().StorageClasses().Lister(), *dir, *node}
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
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	if waits && claim.Annotations["volume.kubernetes.io/selected-node"] == "" {
		return // The scheduler has not chosen yet.
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(v.dir, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		log.Print(err)
		return
	}
	os.Chmod(path, 0o777) // Whatever the umask is.
	_, err = v.client.CoreV1().PersistentVolumes().Create(context.Background(), v.volume(name, path, claim, class), metav1.CreateOptions{})
	if err != nil && !errors.IsAlreadyExists(err) {
		log.Print(err)
	}
}

func (v volumes) volume(name, path string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) *corev1.PersistentVolume {
	here := corev1.NodeSelectorRequirement{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{v.node}}
	return &corev1.PersistentVolume{
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
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{here}}},
			}},
		},
	}
}

// remove deletes a volume that its claim has left, with its folder.
func (v volumes) remove(volume *corev1.PersistentVolume) {
	if volume.Annotations[provisionedBy] != folders || volume.Status.Phase != corev1.VolumeReleased ||
		volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return
	}
	if err := os.RemoveAll(filepath.Join(v.dir, volume.Name)); err != nil {
		log.Print(err)
		return
	}
	err := v.client.CoreV1().PersistentVolumes().Delete(context.Background(), volume.Name, metav1.DeleteOptions{})
	if err != nil && !errors.IsNotFound(err) {
		log.Print(err)
	}
}
