// kube is the Kubernetes of the tests in one program, so that what its parts share is compiled and linked once: called
// as, or with the first argument, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, kube-proxy, kubectl
// or etcd, it is that program, as it is released. provisioner and dns are small stand-ins for what a cluster has besides.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	manager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// programs become the named program and return its exit code.
var programs = map[string]func() int{
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(manager.NewControllerManagerCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
	"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	"kubectl":                 kubectl,
	"etcd":                    func() int { etcdmain.Main(os.Args); return 0 },
	"provisioner":             provisioner,
	"dns":                     dns,
}

func main() {
	if program, ok := programs[filepath.Base(os.Args[0])]; ok {
		os.Exit(program())
	}
	if len(os.Args) > 1 {
		os.Args = os.Args[1:]
		if program, ok := programs[os.Args[0]]; ok {
			os.Exit(program())
		}
	}
	fmt.Fprintln(os.Stderr, "usage: kube PROGRAM ARGUMENT..., PROGRAM being one of:")
	for name := range programs {
		fmt.Fprintln(os.Stderr, " ", name)
	}
	os.Exit(2)
}

func kubectl() int {
	logs.GlogSetter(cmd.GetLogVerbosity(os.Args))
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
	return 0
}

// client of the cluster that a kubeconfig is for.
func client(kubeconfig string) kubernetes.Interface {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	return kubernetes.NewForConfigOrDie(config)
}
