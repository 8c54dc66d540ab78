#include "server/server.h"
static void error(upg_buf *out, int status, const char *message, const char *param) {
    (void)param;
    upg_buf_fmt(out, "{\"error\":{\"message\":\"%s\",\"code\":%d}}", message, status);
}
const dialect dialect_openai = {"openai", error}, dialect_anthropic = {"anthropic", error},
              dialect_ollama = {"ollama", error};
