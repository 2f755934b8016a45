// kubevirt is what KubeVirt runs once a cluster, in one binary: called as virt-operator, virt-api or virt-controller, it
// is that program. Called as manifests it prints what installs virt-operator, by KubeVirt's own generators.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"kubevirt.io/client-go/log"
	"kubevirt.io/kubevirt/pkg/service"
	api "kubevirt.io/kubevirt/pkg/virt-api"
	controller "kubevirt.io/kubevirt/pkg/virt-controller/watch"
	operator "kubevirt.io/kubevirt/pkg/virt-operator"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "virt-operator":
		operator.Execute()
	case "virt-controller":
		controller.Execute()
	case "virt-api":
		log.InitializeLogging("virt-api")
		app := api.NewVirtApi()
		service.Setup(app)
		app.Execute()
	case "manifests":
		if err := manifests(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, name+": call it as virt-operator, virt-api, virt-controller or manifests")
		os.Exit(2)
	}
}
