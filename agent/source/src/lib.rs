//! Sources of consistent views of a VM: libvirt domains
