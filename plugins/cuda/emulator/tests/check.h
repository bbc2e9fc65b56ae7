// What the emulator's own tests share: a check that names itself, and scenarios in processes of their own.
#pragma once
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);     \
            std::exit(1);                                                                    \
        }                                                                                    \
    } while (0)

// Runs `body` in a child with SCONCE_EMULATED_GPU=`setting`, and wants it to end well, or with SIGABRT if it `aborts`.
template <class Body>
void scenario(const char* name, const char* setting, Body body, bool aborts = false) {
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        setenv("SCONCE_EMULATED_GPU", setting, 1);
        if (aborts) std::freopen("/dev/null", "w", stderr);
        body();
        std::exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    const bool ok = aborts ? WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT : WIFEXITED(status) && WEXITSTATUS(status) == 0;
    std::printf("%s ... %s\n", name, ok ? "ok" : "FAILED");
    if (!ok) std::exit(1);
}
