module example.com/{{name}}

go 1.24

require remora.dev/sdk v0.0.0

replace remora.dev/sdk => ./remora/go
