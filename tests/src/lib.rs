//! The lab (real libvirt, QEMU and guests) and the end-to-end suite
