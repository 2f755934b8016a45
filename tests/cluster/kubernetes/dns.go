package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/client-go/listers/core/v1"

	"k8s.io/client-go/informers"
)

// zone is where services have their names: SERVICE.NAMESPACE.svc.cluster.local.
const zone = ".svc.cluster.local."

// dns answers for the names of services that have an address, over UDP and TCP, and knows nothing else.
func dns() int {
	flags := flag.NewFlagSet("dns", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "kubeconfig")
	listen := flags.String("listen", "", "address and port")
	flags.Parse(os.Args[1:])
	factory := informers.NewSharedInformerFactory(client(*kubeconfig), 0)
	services := factory.Core().V1().Services().Lister()
	factory.Start(nil)
	factory.WaitForCacheSync(nil)

	packets, err := net.ListenPacket("udp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	streams, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for {
			stream, err := streams.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go answerStream(services, stream)
		}
	}()
	question := make([]byte, 4096)
	for {
		size, from, err := packets.ReadFrom(question)
		if err != nil {
			log.Fatal(err)
		}
		if answer, err := answer(services, question[:size]); err == nil {
			packets.WriteTo(answer, from)
		}
	}
}

// answerStream answers the questions of one TCP connection, each with its length before it.
func answerStream(services corev1.ServiceLister, stream net.Conn) {
	defer stream.Close()
	for {
		var size uint16
		if binary.Read(stream, binary.BigEndian, &size) != nil {
			return
		}
		question := make([]byte, size)
		if _, err := io.ReadFull(stream, question); err != nil {
			return
		}
		answer, err := answer(services, question)
		if err != nil {
			return
		}
		binary.Write(stream, binary.BigEndian, uint16(len(answer)))
		stream.Write(answer)
	}
}

// answer is the message that answers a message of one question.
func answer(services corev1.ServiceLister, message []byte) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(message)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	address, err := lookup(services, strings.ToLower(question.Name.String()))
	header.Response, header.Authoritative, header.RecursionAvailable = true, true, true
	if err != nil {
		header.RCode = dnsmessage.RCodeNameError
	}
	builder := dnsmessage.NewBuilder(nil, header)
	builder.EnableCompression()
	if err := errors.Join(builder.StartQuestions(), builder.Question(question)); err != nil {
		return nil, err
	}
	if err == nil && question.Type == dnsmessage.TypeA {
		about := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 1}
		record := dnsmessage.AResource{A: address.As4()}
		if err := errors.Join(builder.StartAnswers(), builder.AResource(about, record)); err != nil {
			return nil, err
		}
	}
	return builder.Finish()
}

// lookup finds the IPv4 address of a service by its whole name.
func lookup(services corev1.ServiceLister, name string) (netip.Addr, error) {
	prefix, ok := strings.CutSuffix(name, zone)
	service, namespace, two := strings.Cut(prefix, ".")
	if !ok || !two {
		return netip.Addr{}, errors.New("not a name of a service")
	}
	found, err := services.Services(namespace).Get(service)
	if err != nil {
		return netip.Addr{}, err
	}
	address, err := netip.ParseAddr(found.Spec.ClusterIP)
	if err == nil && !address.Is4() {
		err = errors.New("not an IPv4 address")
	}
	return address, err
}
