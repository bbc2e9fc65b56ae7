// Turns `extern "C" __global__` functions into entries of the kernel table, with their arguments behind pointers.
#pragma once

namespace sconce {

template <auto Function>
struct Callable;

template <class... Arguments, void (*Function)(Arguments...)>
struct Callable<Function> {
    static constexpr unsigned kBytes[sizeof...(Arguments) + 1] = {unsigned(sizeof(Arguments))..., 0};

    template <size_t... I>
    static void call(void** arguments, std::index_sequence<I...>) {
        Function(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...);
    }
    static void body(void** arguments) { call(arguments, std::index_sequence_for<Arguments...>{}); }
    static Kernel entry(const char* name) { return {name, body, sizeof...(Arguments), kBytes}; }
};

}  // namespace sconce

#define SCONCE_KERNEL(function) sconce::Callable<&function>::entry(#function),
