// The description of the server's API, compiled in.
    .section .rodata
    .global server_openapi
server_openapi:
    .incbin "src/server/openapi.json"
    .global server_openapi_end
server_openapi_end:
    .byte 0
    .section .note.GNU-stack,"",%progbits
