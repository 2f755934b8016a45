// Package abi brings values over the border between the host and a component: the canonical ABI of
// https://github.com/WebAssembly/component-model (CanonicalABI.md), for the kinds of types that `wit/policy` has.
//
// A record of WIT is a struct with the same fields in the same order; a list is a slice; an option is a pointer; an enum is
// a uint8. Addresses of the component's memory have 32 bits, pointers of Go have 64: so nothing here is a mere cast.
package abi

import (
	"reflect"
	"unsafe"
)

// given is what the host has asked room for and the next call takes.
var given [][]uint64

// kept is what the host may still read, until it says that it has.
var kept []any

//go:wasmexport cabi_realloc
func realloc(old, oldSize, align, size uint32) uint32 {
	if old != 0 || oldSize != 0 {
		panic("the host never makes what it gave larger")
	}
	room := words(uintptr(size))
	given = append(given, room)
	return address(unsafe.Pointer(unsafe.SliceData(room)))
}

// words is memory that is aligned for everything, one word at least, so that it has an address.
func words(size uintptr) []uint64 {
	return make([]uint64, size/8+1)
}

func address(at unsafe.Pointer) uint32 {
	return uint32(uintptr(at))
}

func pointer(address uint32) unsafe.Pointer {
	return unsafe.Add(nil, address)
}

// String is a text that the host gave.
func String(at, length uint32) string {
	return unsafe.String((*byte)(pointer(at)), length)
}

// List is a list that the host gave.
func List[T any](at, length uint32) []T {
	var list []T
	loadList(reflect.ValueOf(&list).Elem(), at, length)
	return list
}

// Taken says that all arguments of a call were taken.
func Taken() {
	given = nil
}

// Done says that the host has read what was returned.
func Done() {
	kept = nil
}

// Return is the address of an answer that is a value.
func Return(value any) uint32 {
	v := reflect.ValueOf(value)
	size, _ := layout(v.Type())
	area := keep(size)
	store(v, area)
	return address(area)
}

// returnResult is the address of an answer that is a `result` of two lists: of `errors`, unless there are none.
func returnResult(fine, errors any) uint32 {
	area := keep(12)
	list := reflect.ValueOf(fine)
	if wrong := reflect.ValueOf(errors); wrong.Len() > 0 {
		*(*uint8)(area), list = 1, wrong
	}
	store(list, unsafe.Add(area, 4))
	return address(area)
}

func keep(size uintptr) unsafe.Pointer {
	room := words(size)
	kept = append(kept, room)
	return unsafe.Pointer(unsafe.SliceData(room))
}

// layout is how large a value is in the component's memory, and what its address is a multiple of.
func layout(t reflect.Type) (size, align uintptr) {
	switch t.Kind() {
	case reflect.Bool, reflect.Uint8:
		return 1, 1
	case reflect.Uint32:
		return 4, 4
	case reflect.Int64, reflect.Uint64:
		return 8, 8
	case reflect.String, reflect.Slice:
		return 8, 4
	case reflect.Pointer:
		some, align := layout(t.Elem())
		return up(align+some, align), align
	case reflect.Struct:
		align = 1
		for i := range t.NumField() {
			field, needs := layout(t.Field(i).Type)
			size, align = up(size, needs)+field, max(align, needs)
		}
		return up(size, align), align
	}
	panic("wit/policy has no such type: " + t.String())
}

func up(offset, align uintptr) uintptr {
	return (offset + align - 1) / align * align
}

// load reads a value.
func load(v reflect.Value, at unsafe.Pointer) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(*(*uint8)(at) != 0)
	case reflect.Uint8:
		v.SetUint(uint64(*(*uint8)(at)))
	case reflect.Uint32:
		v.SetUint(uint64(*(*uint32)(at)))
	case reflect.Int64:
		v.SetInt(*(*int64)(at))
	case reflect.Uint64:
		v.SetUint(*(*uint64)(at))
	case reflect.String:
		list := (*[2]uint32)(at)
		v.SetString(String(list[0], list[1]))
	case reflect.Slice:
		list := (*[2]uint32)(at)
		loadList(v, list[0], list[1])
	case reflect.Pointer:
		if *(*uint8)(at) != 0 {
			_, align := layout(v.Type().Elem())
			v.Set(reflect.New(v.Type().Elem()))
			load(v.Elem(), unsafe.Add(at, align))
		}
	case reflect.Struct:
		fields(v, at, load)
	}
}

func loadList(v reflect.Value, at, length uint32) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(unsafe.Slice((*byte)(pointer(at)), length))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), int(length), int(length)))
	items(v, pointer(at), load)
}

// store writes a value.
func store(v reflect.Value, at unsafe.Pointer) {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			*(*uint8)(at) = 1
		}
	case reflect.Uint8:
		*(*uint8)(at) = uint8(v.Uint())
	case reflect.Uint32:
		*(*uint32)(at) = uint32(v.Uint())
	case reflect.Int64:
		*(*int64)(at) = v.Int()
	case reflect.Uint64:
		*(*uint64)(at) = v.Uint()
	case reflect.String:
		text := v.String()
		kept = append(kept, text)
		*(*[2]uint32)(at) = [2]uint32{address(unsafe.Pointer(unsafe.StringData(text))), uint32(len(text))}
	case reflect.Slice:
		size, _ := layout(v.Type().Elem())
		list := keep(size * uintptr(v.Len()))
		items(v, list, store)
		*(*[2]uint32)(at) = [2]uint32{address(list), uint32(v.Len())}
	case reflect.Pointer:
		if !v.IsNil() {
			_, align := layout(v.Type().Elem())
			*(*uint8)(at) = 1
			store(v.Elem(), unsafe.Add(at, align))
		}
	case reflect.Struct:
		fields(v, at, store)
	}
}

func items(v reflect.Value, at unsafe.Pointer, each func(reflect.Value, unsafe.Pointer)) {
	size, _ := layout(v.Type().Elem())
	for i := range v.Len() {
		each(v.Index(i), unsafe.Add(at, uintptr(i)*size))
	}
}

func fields(v reflect.Value, at unsafe.Pointer, each func(reflect.Value, unsafe.Pointer)) {
	offset := uintptr(0)
	for i := range v.NumField() {
		size, align := layout(v.Type().Field(i).Type)
		offset = up(offset, align)
		each(v.Field(i), unsafe.Add(at, offset))
		offset += size
	}
}

// Each answers a list of questions one by one.
func Each[Q, A any](at, length uint32, answer func(question *Q) A) uint32 {
	questions := List[Q](at, length)
	Taken()
	answers := make([]A, len(questions))
	for i := range questions {
		answers[i] = answer(&questions[i])
	}
	return Return(answers)
}

// Configured makes a policy of the settings that the host gave and keeps it; it tells no facts of itself.
func Configured[P, E any](at, length uint32, configure func(settings string) (P, []E), policy *P) uint32 {
	made, errors := configure(String(at, length))
	Taken()
	*policy = made
	return returnResult([]string{}, errors)
}
